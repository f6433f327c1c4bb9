"""A corpus of passages, the questions asked of it, and the tools that look into it.

``passages`` reads a corpus, ``index`` and ``sparse`` rank its passages for a query, ``questions``
reads what is asked, ``looking`` has the tools, and ``archive`` draws small worlds to ask about. How
a play is graded is in ``rewards.retrieval``.
"""
