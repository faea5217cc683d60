"""Coroutines: runs the bodies of ``async def`` tasks in one event loop per process, while their slots wait."""
