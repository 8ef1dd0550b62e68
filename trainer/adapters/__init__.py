"""Smart Tuner in the shapes of the frameworks that own the training loop: one file each, loaded where it is used."""
