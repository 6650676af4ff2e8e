//! Through the CNI project's own library, as a runtime would.
