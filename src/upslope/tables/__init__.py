"""Workbooks in memory: cells, reading and writing files, formulas, SQL, and tools over them.

Nothing here knows an env, and nothing here runs what a workbook brings along (macros, links).
"""
