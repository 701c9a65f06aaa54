"""The text of the report, one file for each section; the files beside this folder gather the facts."""
