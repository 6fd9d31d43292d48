"""The job that a user describes: settings, loading, validation, parameters, response format, key, presets."""
