"""What a trial shows: numbers, figures and pages, and the comparison of several trials."""
