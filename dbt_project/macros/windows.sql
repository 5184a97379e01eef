{# The dates that this run replaces, ISO text in order; empty = all of them. #}
{% macro window_dates() %}
  {%- set dates = [] -%}
  {%- for day in var("event_dates", none) or [] -%}
    {#- Parsed, not pasted: whatever is no date stops here instead of reaching the SQL. -#}
    {%- do dates.append(modules.datetime.date.fromisoformat(day | string).isoformat()) -%}
  {%- endfor -%}
  {{ return(dates | unique | sort) }}
{% endmacro %}

{# True for rows whose `column` is one of the dates that this run replaces. #}
{% macro in_window(column) -%}
  {%- set dates = window_dates() -%}
  {%- if dates -%}
    {{ column }} in (
    {%- for day in dates %}date '{{ day }}'{{ ", " if not loop.last }}{% endfor -%}
    )
  {%- else -%}
    true
  {%- endif -%}
{%- endmacro %}

{#
  The ranges of dates, as pairs of ISO texts, on which rows of this run's dates arrived by a sound clock:
  from the day in front, since it may be an hour fast, to `late_days` after. Dates far apart stay apart,
  so that one event of long ago does not open the files of all the time since.
#}
{% macro arrival_ranges() %}
  {%- set date = modules.datetime.date -%}
  {%- set ranges = [] -%}
  {%- for day in window_dates() -%}
    {#- The calendar ends at both sides: 1 is its first day, and this its last. -#}
    {%- set number = date.fromisoformat(day).toordinal() -%}
    {%- set first = [number - 1, 1] | max -%}
    {%- set last = [number + (var("late_days") | int), date.max.toordinal()] | min -%}
    {%- if ranges and first <= ranges[-1][1] + 1 -%}
      {%- set first = ranges.pop()[0] -%}
    {%- endif -%}
    {%- do ranges.append([first, last]) -%}
  {%- endfor -%}
  {%- set texts = [] -%}
  {%- for first, last in ranges -%}
    {%- do texts.append([date.fromordinal(first).isoformat(), date.fromordinal(last).isoformat()]) -%}
  {%- endfor -%}
  {{ return(texts) }}
{% endmacro %}

{#
  True for rows that can belong to the window, judged by the partition columns alone, so that
  whole files of other days are never opened. Rows whose clock was wrong may belong to any.
#}
{% macro may_be_in_window(received_date, clock_skewed) -%}
  {%- set ranges = arrival_ranges() -%}
  {%- if ranges -%}
    (
        {{ clock_skewed }} is distinct from false
        {%- for first, last in ranges %}
        or {{ received_date }} between date '{{ first }}' and date '{{ last }}'
        {%- endfor %}
    )
  {%- else -%}
    true
  {%- endif -%}
{%- endmacro %}
