{#
  A model as a Delta table of the tenant, at <lake_root>/<tenant>/<schema>/<alias>.

  The rows are built in memory first, under the enforced contract, so that a column of the wrong
  type or a null where none may be stops the run before anything is written. Then the plugin
  replaces the window (var event_dates; all dates where it is empty) in one Delta commit.

  Config, under meta.delta: stats_columns, the columns that may have statistics in the Delta log.
#}
{% materialization delta, adapter="duckdb", supported_languages=["sql"] %}
  {%- set target = this.incorporate(type="view") -%}
  {%- set built = make_intermediate_relation(this.incorporate(type="table")) -%}
  {%- set settings = config.get("meta", {}).get("delta", {}) -%}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}

  {% call statement("build") -%}
    {{ create_table_as(False, built, compiled_code) }}
  {%- endcall %}

  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {#- The plugin reads with a cursor of its own, which sees committed rows only. -#}
  {{ adapter.commit() }}

  {#- store_relation returns nothing: the plugin leaves `version` and `rows` in this mapping. -#}
  {%- set commit = {
      "built": built,
      "columns": declared_columns(model),
      "window_column": "event_date",
      "window_dates": window_dates(),
      "stats_columns": settings.get("stats_columns", []),
      "model": model.name,
  } -%}
  {% do adapter.store_relation("dbt_delta", target, [], "", "delta", commit) %}
  {% do store_raw_result(
      "main",
      message="delta version " ~ commit["version"],
      code="delta",
      rows_affected=commit["rows"],
  ) %}

  {{ run_hooks(post_hooks, inside_transaction=False) }}
  {{ return({"relations": [target]}) }}
{% endmaterialization %}
