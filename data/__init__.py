"""What makes the data. A package, so that no installed one called data takes its place."""
