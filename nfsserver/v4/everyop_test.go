package v4_test

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// everyOp is one well-formed request of each operation, as a client of this
// session would send it. Fuzzing starts from them.
func everyOp(c *client) []nfsv4.NfsArgop4 {
	dir := attrs(nfsv4.FATTR4_MODE, uint32(0o755), nfsv4.FATTR4_OWNER, "0")
	id := nfsv4.Stateid4{Seqid: 1, Other: [12]byte{1}}
	lockOwner := nfsv4.LockOwner4{Owner: []byte("lo")}
	return []nfsv4.NfsArgop4{
		access(0x3f),
		closeFile(id),
		&nfsv4.NfsArgop4_OP_COMMIT{},
		createDir("d1", dir),
		create(&nfsv4.Createtype4_NF4LNK{Linkdata: []byte("to")}, "l1", attrs()),
		create(&nfsv4.Createtype4_NF4CHR{Devdata: nfsv4.Specdata4{Specdata1: 1, Specdata2: 3}}, "c1", attrs()),
		&nfsv4.NfsArgop4_OP_DELEGPURGE{},
		&nfsv4.NfsArgop4_OP_DELEGRETURN{},
		getAttr(1, 3, 4, 8, 19, 20, 33, 35, 36, 37, 41, 45, 47, 52, 53, 55),
		&nfsv4.NfsArgop4_OP_GETFH{},
		link("hard"),
		&nfsv4.NfsArgop4_OP_LOCK{Oplock: nfsv4.Lock4args{Locktype: nfsv4.WRITE_LT, Length: 10, Locker: &nfsv4.Locker4_TRUE{OpenOwner: nfsv4.OpenToLockOwner4{OpenStateid: id, LockOwner: lockOwner}}}},
		&nfsv4.NfsArgop4_OP_LOCK{Oplock: nfsv4.Lock4args{Locktype: nfsv4.READ_LT, Length: 10, Locker: &nfsv4.Locker4_FALSE{LockOwner: nfsv4.ExistLockOwner4{LockStateid: id}}}},
		&nfsv4.NfsArgop4_OP_LOCKT{Oplockt: nfsv4.Lockt4args{Locktype: nfsv4.READ_LT, Length: 10, Owner: lockOwner}},
		&nfsv4.NfsArgop4_OP_LOCKU{Oplocku: nfsv4.Locku4args{Locktype: nfsv4.READ_LT, LockStateid: id, Length: 10}},
		lookup("f"),
		&nfsv4.NfsArgop4_OP_LOOKUPP{},
		&nfsv4.NfsArgop4_OP_NVERIFY{Opnverify: nfsv4.Nverify4args{ObjAttributes: attrs(nfsv4.FATTR4_SIZE, uint64(9))}},
		open("o", rw, 0, &nfsv4.Createhow4_UNCHECKED4{Createattrs: dir}, named("n1")),
		open("o", rw, 0, &nfsv4.Createhow4_GUARDED4{Createattrs: dir}, named("n2")),
		open("o", rw, 0, &nfsv4.Createhow4_EXCLUSIVE4{Createverf: [8]byte{1}}, named("n3")),
		open("o", rw, 0, &nfsv4.Createhow4_EXCLUSIVE4_1{ChCreateboth: nfsv4.Creatverfattr{CvaVerf: [8]byte{2}, CvaAttrs: dir}}, named("n4")),
		open("o", rd, nfsv4.OPEN4_SHARE_DENY_WRITE, nil, named("f")),
		open("o", rd, 0, nil, nil),
		open("o", rd, 0, nil, &nfsv4.OpenClaim4_CLAIM_PREVIOUS{DelegateType: nfsv4.OPEN_DELEGATE_NONE}),
		open("o", rd, 0, nil, &nfsv4.OpenClaim4_CLAIM_DELEGATE_CUR{DelegateCurInfo: nfsv4.OpenClaimDelegateCur4{File: "f"}}),
		&nfsv4.NfsArgop4_OP_OPENATTR{},
		&nfsv4.NfsArgop4_OP_OPEN_DOWNGRADE{OpopenDowngrade: nfsv4.OpenDowngrade4args{OpenStateid: id, ShareAccess: rd}},
		putFH(make([]byte, 44)),
		&nfsv4.NfsArgop4_OP_PUTPUBFH{},
		&nfsv4.NfsArgop4_OP_PUTROOTFH{},
		read(anonymous, 0, 100),
		readDir(0, [8]byte{}, 512, 4096, 1, 8, 11, 19, 20, 33, 55),
		&nfsv4.NfsArgop4_OP_READLINK{},
		remove("gone"),
		rename("a", "b"),
		&nfsv4.NfsArgop4_OP_RESTOREFH{},
		&nfsv4.NfsArgop4_OP_SAVEFH{},
		&nfsv4.NfsArgop4_OP_SECINFO{Opsecinfo: nfsv4.Secinfo4args{Name: "f"}},
		setAttr(anonymous, attrs(nfsv4.FATTR4_SIZE, uint64(5), nfsv4.FATTR4_TIME_MODIFY_SET, nil)),
		&nfsv4.NfsArgop4_OP_VERIFY{Opverify: nfsv4.Verify4args{ObjAttributes: attrs(nfsv4.FATTR4_SIZE, uint64(0))}},
		write(anonymous, 3, nfsv4.UNSTABLE4, []byte("hello")),
		&nfsv4.NfsArgop4_OP_BACKCHANNEL_CTL{OpbackchannelCtl: nfsv4.BackchannelCtl4args{
			BcaCbProgram: 5, BcaSecParms: []nfsv4.CallbackSecParms4{&nfsv4.CallbackSecParms4_AUTH_NONE{}},
		}},
		&nfsv4.NfsArgop4_OP_BIND_CONN_TO_SESSION{OpbindConnToSession: nfsv4.BindConnToSession4args{BctsaSessid: c.session, BctsaDir: nfsv4.CDFC4_FORE}},
		&nfsv4.NfsArgop4_OP_EXCHANGE_ID{OpexchangeId: nfsv4.ExchangeId4args{
			EiaClientowner: nfsv4.ClientOwner4{CoOwnerid: []byte("x")}, EiaStateProtect: &nfsv4.StateProtect4A_SP4_NONE{},
		}},
		&nfsv4.NfsArgop4_OP_CREATE_SESSION{OpcreateSession: nfsv4.CreateSession4args{CsaClientid: 1, CsaSequence: 1}},
		&nfsv4.NfsArgop4_OP_DESTROY_SESSION{},
		&nfsv4.NfsArgop4_OP_FREE_STATEID{OpfreeStateid: nfsv4.FreeStateid4args{FsaStateid: id}},
		&nfsv4.NfsArgop4_OP_GETDEVICEINFO{},
		&nfsv4.NfsArgop4_OP_LAYOUTGET{},
		&nfsv4.NfsArgop4_OP_SECINFO_NO_NAME{OpsecinfoNoName: nfsv4.SECINFO_STYLE4_CURRENT_FH},
		c.sequenceAgain(),
		&nfsv4.NfsArgop4_OP_TEST_STATEID{OptestStateid: nfsv4.TestStateid4args{TsStateids: []nfsv4.Stateid4{id, anonymous}}},
		&nfsv4.NfsArgop4_OP_DESTROY_CLIENTID{OpdestroyClientid: nfsv4.DestroyClientid4args{DcaClientid: 99}},
		&nfsv4.NfsArgop4_OP_RECLAIM_COMPLETE{},
		&nfsv4.NfsArgop4_OP_ALLOCATE{Opallocate: nfsv4.Allocate4args{AaLength: 100}},
		&nfsv4.NfsArgop4_OP_DEALLOCATE{Opdeallocate: nfsv4.Deallocate4args{DaOffset: 2, DaLength: 100}},
		copyArgs(anonymous, anonymous, 0, 4096, 10, true),
		offloadStatus(id),
		offloadCancel(id),
		&nfsv4.NfsArgop4_OP_CLONE{Opclone: nfsv4.Clone4args{ClDstOffset: 4096}},
		&nfsv4.NfsArgop4_OP_IO_ADVISE{OpioAdvise: nfsv4.IoAdvise4args{IaaCount: 10, IaaHints: []uint32{1}}},
		&nfsv4.NfsArgop4_OP_SEEK{Opseek: nfsv4.Seek4args{SaWhat: nfsv4.NFS4_CONTENT_DATA}},
		&nfsv4.NfsArgop4_OP_READ_PLUS{},
	}
}

// sequenceAgain is a SEQUENCE for this session that uses no sequence id.
func (c *client) sequenceAgain() nfsv4.NfsArgop4 {
	s := c.sequence()
	c.seq--
	return s
}
