"""The models of a study: what they are, their parameters, features, losses and scores."""
