"""The rules of lending: plain synchronous code that never awaits. Time comes in as a number, answers go out as values.

The shell that awaits is `services/mcp_session_pool.py`.
"""
