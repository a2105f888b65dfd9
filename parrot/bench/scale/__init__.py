"""`parrot bench scale`: large and many applications over HTTP, on scripted engines at a model's cost."""
