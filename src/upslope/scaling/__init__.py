"""The slope: forms, fits and forecasts of reward against compute. Never imports torch."""
