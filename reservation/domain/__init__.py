"""What a reservation is and may become. Pure: nothing here knows of storage, network, clocks or chance."""
