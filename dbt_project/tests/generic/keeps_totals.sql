{#
  Each date's sums equal what arrived: nothing is lost between the groups and nothing counted twice.
  `totals` gives, for a column of the mart, the expression over the rows of `arrived` that its sum
  must equal; `only` keeps some of those rows, and `of_people`, a column that names people, leaves
  out the dates with too few of them to be shown. Looks at the window of this run only.
#}
{% test keeps_totals(model, arrived, totals, only="true", of_people=none) %}
with published as (
    select
        event_date,
        {% for column in totals -%}
        sum({{ column }}) as {{ column }}{{ "," if not loop.last }}
        {% endfor %}
    from {{ model }}
    where {{ in_window("event_date") }}
    group by event_date
),

arrived as (
    select
        event_date,
        {% for column, expression in totals.items() -%}
        {{ expression }} as {{ column }}{{ "," if not loop.last }}
        {% endfor %}
    from {{ arrived }}
    where {{ in_window("event_date") }} and ({{ only }})
    group by event_date
    {% if of_people -%}
    having count(distinct {{ of_people }}) >= {{ var("k_threshold") | int }}
    {%- endif %}
)

select event_date
from published
full outer join arrived using (event_date)
where
    {% for column in totals -%}
    published.{{ column }} is distinct from arrived.{{ column }}{{ " or" if not loop.last }}
    {% endfor %}
{% endtest %}
