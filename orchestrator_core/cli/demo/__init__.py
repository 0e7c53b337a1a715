"""
The demonstration: six real deployments, their ends, and a count of leftovers.

It uses the library as any application does. :mod:`.scenario` has its acts, :mod:`.programs` the
programs that it runs, :mod:`.leftovers` counts resources by asking the system, and
:mod:`.drawing` draws sagas.
"""
