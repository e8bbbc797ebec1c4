"""The configuration: TOML text becomes one frozen, validated `Config`; a refusal names the file, the key, the value and
what was expected.

`sections` has the tables and `Config` (look there for a key), `loading` makes a `Config` of a file, `workers` makes
workers of their entries. `reading`, `checks` and `values` are what these are made of.
"""
