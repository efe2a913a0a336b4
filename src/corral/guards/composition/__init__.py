"""Guards made of guards: cascades, ensembles, decoders and thresholds by language; their specs, fits and costs."""
