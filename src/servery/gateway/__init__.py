"""The path of a request: receive, identify, admit, choose, execute, record."""
