"""Many hospitals on one machine, through the production code."""
