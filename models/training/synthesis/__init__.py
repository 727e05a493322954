"""Speech for training and judging from the text-to-speech engines that packages carry."""
