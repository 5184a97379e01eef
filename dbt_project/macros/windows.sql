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
  True for rows that can belong to the window, judged by the partition columns alone, so that
  whole files of other days are never opened. A row with a sound clock arrives between an hour
  before its event (hence the day in front) and `late_days` after it; the others are kept.
#}
{% macro may_be_in_window(received_date, clock_skewed) -%}
  {%- set dates = window_dates() -%}
  {%- if dates -%}
    {%- set day = modules.datetime.date.fromisoformat -%}
    {%- set first = day(dates | first) - modules.datetime.timedelta(days=1) -%}
    {%- set last = day(dates | last) + modules.datetime.timedelta(days=var("late_days") | int) -%}
    (
        {{ clock_skewed }} is distinct from false
        or {{ received_date }} between date '{{ first }}' and date '{{ last }}'
    )
  {%- else -%}
    true
  {%- endif -%}
{%- endmacro %}
