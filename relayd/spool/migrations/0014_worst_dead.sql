-- The worst of what is dead stands first in the status: a seek, however much is dead.

CREATE INDEX deliveries_dead ON deliveries (priority, id DESC) WHERE state = 'dead';
