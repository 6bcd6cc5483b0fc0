-- An emergency that was never tried is found at once, also during a pause of its destination.

CREATE INDEX deliveries_untried ON deliveries (destination, id) WHERE state = 'pending' AND waits_for = '' AND priority = 0 AND attempts = 0;
