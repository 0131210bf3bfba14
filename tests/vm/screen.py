"""A lit screen on vkms, for the tests of KMS."""

from drm_words import properties

from linuxsync import DrmDevice, kms


class Screen:
    """A lit screen with three framebuffers, of which the first is shown."""

    def __init__(self, keep):
        self.keep = keep
        self.device = keep(DrmDevice.open(driver="vkms"))
        self.fd = self.device.fileno()
        self.pipeline = kms.find_pipeline(self.device)
        self.crtc, self.plane = self.pipeline.crtc, self.pipeline.plane
        self.mode = self.pipeline.modes[0]
        self.fbs = [self.framebuffer() for _ in range(3)]
        kms.modeset(self.device, self.pipeline, self.fbs[0])

    def framebuffer(self):
        gem = self.keep(self.device.create_dumb(self.mode.width, self.mode.height, 32))
        return self.keep(kms.add_framebuffer(gem, self.mode.width, self.mode.height))

    def commit(self, fb, **options):
        return kms.commit(self.device, crtc=self.crtc, plane=self.plane, fb=fb, **options)

    def flip(self, fb, **options):
        return self.keep(self.commit(fb, **options))

    def ids(self, number, kind):
        return {name: identity for name, (identity, _) in properties(self.fd, number, kind).items()}
