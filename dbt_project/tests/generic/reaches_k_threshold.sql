{#
  A published group that counts too few people. Looks at every date, not only at the window: a
  threshold that was raised must not leave older groups standing unseen.
#}
{% test reaches_k_threshold(model, column_name) %}
select {{ column_name }}
from {{ model }}
where {{ column_name }} < {{ var("k_threshold") | int }}
{% endtest %}
