"""From one env file to every configuration file of every tier, checked first."""
