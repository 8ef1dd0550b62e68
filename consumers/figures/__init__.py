"""Curves with the decisions on them, as SVG: readable offline, by any browser, without a library of ours or of others."""
