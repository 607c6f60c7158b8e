"""Many runs: jobs, searches, tables and plots of results; trains nothing itself."""
