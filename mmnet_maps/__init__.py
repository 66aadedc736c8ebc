"""Daily 100 m surface soil moisture maps of the conterminous United States with MMNet."""
