"""The evaluation suite: which plans do least damage, on trained systems, judged where no scorer has looked."""
