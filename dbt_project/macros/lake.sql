{# A model lives in the zone that its folder names, without the target's name in front. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
  {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}

{# Name -> data type, as the yml declares them. #}
{% macro declared_columns(node) %}
  {%- set types = {} -%}
  {%- for column in node.columns.values() -%}
    {%- do types.update({column.name: column.data_type or "varchar"}) -%}
  {%- endfor -%}
  {{ return(types) }}
{% endmacro %}

{#
  Before the first model: a view over each Delta table that this run reads but does not build.
  A table that is not there yet becomes an empty view with the declared columns, so that a
  tenant's first run does not fail. When only unit tests run, views of ours that are not built
  become empty as well: dbt wants the column types of every input, and the rows come from the test.

  All staging views are made in every run. The tables behind those that nothing reads stay closed:
  marts of one subject need not wait for the files of another.
#}
{% macro open_lake() %}
  {%- if execute -%}
    {%- set inputs = [] -%}
    {%- set read = [] -%}
    {%- set kinds = [] -%}
    {%- for unique_id in selected_resources -%}
      {%- do kinds.append(unique_id.split(".")[0]) -%}
      {%- do inputs.extend(inputs_of(unique_id)) -%}
      {%- if not is_view(unique_id) -%}
        {%- do collect_inputs(unique_id, read) -%}
      {%- endif -%}
    {%- endfor -%}
    {%- set only_unit_tests = kinds | reject("equalto", "unit_test") | list | length == 0 -%}
    {%- for unique_id in inputs | unique if unique_id not in selected_resources -%}
      {%- do open_input(unique_id, unique_id in read, only_unit_tests) -%}
    {%- endfor -%}
  {%- endif -%}
{% endmacro %}

{# dbt keeps unit tests out of `graph`; the name of one is unit_test.<project>.<model>.<test>. #}
{% macro inputs_of(unique_id) %}
  {%- set parts = unique_id.split(".") -%}
  {%- set tested = "model." ~ parts[1] ~ "." ~ parts[2] -%}
  {%- set node = graph.nodes.get(tested if parts[0] == "unit_test" else unique_id) -%}
  {{ return(node.depends_on.nodes if node else []) }}
{% endmacro %}

{% macro is_view(unique_id) %}
  {%- set node = graph.nodes.get(unique_id) -%}
  {{ return(node is not none and node.config.materialized == "view") }}
{% endmacro %}

{# Adds to `found` what is read for a node: its inputs, and through views what is behind them. #}
{% macro collect_inputs(unique_id, found) %}
  {%- for one in inputs_of(unique_id) if one not in found -%}
    {%- do found.append(one) -%}
    {%- if is_view(one) -%}
      {%- do collect_inputs(one, found) -%}
    {%- endif -%}
  {%- endfor -%}
{% endmacro %}

{% macro open_input(unique_id, is_read, only_unit_tests) %}
  {%- set node = graph.sources.get(unique_id) or graph.nodes.get(unique_id) -%}
  {%- set in_lake = node.resource_type == "source" or node.config.materialized == "delta" -%}
  {%- if in_lake or only_unit_tests -%}
    {%- set relation = api.Relation.create(
        database=node.database, schema=node.schema, identifier=node.identifier or node.alias
    ) -%}
    {%- do adapter.store_relation(
        "dbt_delta", relation, [], "", "view" if in_lake and is_read else "empty",
        {"columns": declared_columns(node)}
    ) -%}
  {%- endif -%}
{% endmacro %}
