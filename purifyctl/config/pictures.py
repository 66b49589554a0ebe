"""How pictures are recognised without being decoded: by the ending of a file's name, and by a file's first bytes."""

HEADER_BYTES = 64  # the first bytes of a file that `is_picture` needs

# A file with one of these endings is said to be a picture, whether it can be decoded here or not.
_ENDINGS = """
    jpg jpeg jpe jfif jif jp2 j2k j2c jpc jpf jpx jph jpt jxl jxr wdp hdp mpo png apng webp gif avif avifs avci heic
    heif hif tif tiff btf bmp dib ppm pgm pbm pnm pam pfm tga icb vda vst dds ico icns cur psd psb sgi rgb rgba bw pcx
    dcx ras sun xbm xpm qoi hdr rgbe exr im msp spi fli flc fpx fits fit fts blp ftu ftc mic wal bufr gbr
    3fr ari arw bay cap cr2 cr3 crw dcr dcs dng drf eip erf fff gpr iiq k25 kdc mef mos mrw nef nrw orf pef ptx pxn
    raf raw rw2 rwl rwz sr2 srf srw x3f
"""  # the last two lines: camera RAW
PICTURE_ENDINGS = frozenset(f".{ending}" for ending in _ENDINGS.split())

_STARTS = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF, and most RAW
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
    b"IIRO",  # RAW of Olympus and Panasonic
    b"IIU\0",
    b"FUJIFILMCCD-RAW",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",
    b"\xff\x0a",  # JPEG XL
    b"\0\0\0\x0cJXL \r\n\x87\n",
    b"II\xbc\x01",  # JPEG XR
    b"DDS \x7c",
    b"8BPS",  # Photoshop
    b"qoif",
    b"icns",
    b"v/1\x01",  # OpenEXR
    b"#?RADIANCE",
    b"\x59\xa6\x6a\x95",  # Sun raster
    b"SIMPLE  =",  # FITS
    b"BLP1",
    b"BLP2",
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"crx ")
_NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"PF", b"Pf")


def ending_of(name: bytes) -> bytes:
    """The ending of a picture's name, as it is written there: `.JPG`. Empty if no picture's name ends like this."""
    dot = name.rfind(b".", name.rfind(b"/") + 1)
    ending = name[dot:] if dot >= 0 else b""
    return ending if ending.lower().decode("latin-1") in PICTURE_ENDINGS else b""


def is_picture(header: bytes) -> bool:
    """Whether a file that begins with these bytes is a picture, of a kind that can be recognised by its beginning."""
    if header.startswith(_STARTS):
        return True
    if header[:4] == b"RIFF":
        return header[8:12] == b"WEBP"
    if header[4:8] == b"ftyp":
        return header[8:12] in _BRANDS
    if header[:2] == b"BM":  # reserved bytes are 0, and the next header has one of the known lengths
        return header[6:10] == b"\0\0\0\0" and header[14:15] in (
            b"\x0c",
            b"\x28",
            b"\x34",
            b"\x38",
            b"\x40",
            b"\x6c",
            b"\x7c",
        )
    if header[:2] in _NETPBM:
        return header[2:3].isspace() and header[3:4] in b"#0123456789 \t\r\n"
    return header.startswith(b"P7\n")
