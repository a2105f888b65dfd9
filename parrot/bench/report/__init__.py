"""`parrot bench report`: one page with tables and plots, from result files alone."""
