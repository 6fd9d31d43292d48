"""What the user asks for: settings, loading, validation, parameters, response format, key, presets."""
