"""Studies: grids of data sets × methods × options × seeds, of which only missing models are trained.

`settings`, `racing` and `results` do not import Kedro; `cells` makes an artefact of a cell by the catalog's
data sets, in any process; `runner` makes many of them side by side."""
