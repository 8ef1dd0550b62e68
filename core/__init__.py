"""The vocabulary: nouns, ports, clock, errors. Imports no other room."""
