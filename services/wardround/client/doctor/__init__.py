"""`wardround doctor` and `wardround site doctor`: whether a hub, or a clinic, is fit for work, without disturbing it.

Nothing is left behind: rights are proved by requests that cannot be carried out (a message with an impossible expiry, a
consumer with an impossible argument, an object in a bucket that does not exist), queues are counted and never read.
"""
