"""What more than one stage needs; each module is named after the one thing it knows."""
