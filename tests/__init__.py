from podrl.config.user_modules import folders_of

__path__ = folders_of(__name__)
