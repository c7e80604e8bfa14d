"""The science and the report: protocol, statistics, studies, tables, words, figures, files."""
