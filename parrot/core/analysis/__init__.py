"""Inter-call analysis (paper, section 4.2): what one call means to the rest of its application."""
