"""Who may use what now: upstream keys in memory, their health, and leases on them.

``pool`` is one provider's keys and the choice among them, ``gate`` the health of one scope,
``effects`` what a fault does to it, ``leasing`` the door the exchange comes in by, ``keeping`` the
way to and from the store.
"""
