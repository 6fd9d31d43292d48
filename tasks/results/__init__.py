"""What the user gets: rows, writer, totals, summary, report, charts."""
