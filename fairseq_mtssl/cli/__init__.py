"""The console script `mtssl`: one file a subcommand, thin over the other rooms. Nothing imports this room."""
