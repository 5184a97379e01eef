{# Two rows share what should tell rows apart. Looks at the window of this run only. #}
{% test one_row_a_grain(model, columns) %}
select {{ columns | join(", ") }}
from {{ model }}
where {{ in_window("event_date") }}
group by {{ columns | join(", ") }}
having count(*) > 1
{% endtest %}
