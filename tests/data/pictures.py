"""Small photographs of one colour, as encoded bytes."""

import io

from PIL import Image


def encoded(colour="red", size=(20, 16), format="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()
