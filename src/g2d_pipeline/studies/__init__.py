"""Studies: grids of data sets × methods × options × seeds, of which only what is missing is trained.

`settings` and `results` know no Kedro; `cells` makes one artefact of a cell by the catalog's datasets, in any
process; `runner` makes many of them side by side."""
