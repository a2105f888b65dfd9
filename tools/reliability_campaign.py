"""`python tools/reliability_campaign.py`: try the promises with faults, and keep what is found."""

from reliability.campaign import main

if __name__ == "__main__":
    main()
