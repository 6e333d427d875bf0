"""The trained systems that are judged, and what they are judged on."""
