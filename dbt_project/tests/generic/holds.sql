{# A row for which the expression is not true. Looks at the window of this run only. #}
{% test holds(model, expression) %}
select 1 as broken
from {{ model }}
where
    {{ in_window("event_date") }}
    and ({{ expression }}) is distinct from true
{% endtest %}
