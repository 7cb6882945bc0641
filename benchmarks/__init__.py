"""How fast the project is, beside what its users would take otherwise: `make bench`, `python -m benchmarks --help`.

Each topic is a file of `benchmarks/topics/` with

- `TITLE`: a heading;
- `ABOUT`: one paragraph for the page: what is compared, on what, and what the limit is;
- `measure(repetitions) -> pandas.DataFrame`: the table, one row a case, which becomes `reports/benchmarks/<topic>.csv`;
- `draw(table) -> matplotlib Figure`: its picture.

A table of comparisons is `comparing.table` of `comparing.Row`s, and its picture `comparing.draw`. Numbers depend on the
machine and on what else it does; ratios of one run are what to read. Nothing here is asserted by a test.
"""
