"""The examples: a folder a recipe, with what it takes, the command and the numbers to expect.

What they share is here: `pipeline` runs commands one after the other, `stages` knows the commands,
`training_bar` shows a training as one progress bar, `results` writes what an example leaves.
"""
