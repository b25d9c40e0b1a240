"""Many edited runs in few passes, exactly."""
